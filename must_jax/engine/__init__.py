"""What turns a state and a batch into the next state: devices, optimiser, step, checkpoints, metric writing."""
