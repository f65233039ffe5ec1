"Data, augmentation, encoders, batches, the loop, probes, processes."
