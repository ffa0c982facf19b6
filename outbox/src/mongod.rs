//! Real `mongod` processes as replica sets: for tests and for trying things.
