//! Pools and volumes: a driver per backend behind one narrow trait.
