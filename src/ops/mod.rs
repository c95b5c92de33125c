//! Operations: tasks and websockets that a client can watch, wait for and cancel.
