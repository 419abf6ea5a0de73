"""What engines cost: latency, memory and size of a bundle on this machine, and the demo of the whole way."""
