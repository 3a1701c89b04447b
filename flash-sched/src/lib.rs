//! Plans what of a model stays in memory and paces the reads of the rest: pure logic, no clock, no I/O.
