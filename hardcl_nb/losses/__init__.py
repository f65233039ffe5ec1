"Every loss of a batch, in every size: exact, sampled, tiled, fused, between rows and columns, across processes."
