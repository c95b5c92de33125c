//! Instances: one task per container, the queue of requests, the state machine.
