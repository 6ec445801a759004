"""The words of Sluice as pure data and pure functions: no I/O, no clock, no global randomness."""
