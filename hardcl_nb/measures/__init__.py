"What to measure of embeddings: spectra, Neural Collapse, class centres, streams."
