//! Keys and values of the steer program's maps, in the byte layout both sides agree on.
