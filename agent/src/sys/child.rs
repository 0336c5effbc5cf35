//! Child processes: absolute path, empty environment, a deadline, bounded output.
