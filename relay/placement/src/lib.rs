//! Which node a login or a session goes to, and why; who has a server for himself; and who waits for one.
#![forbid(unsafe_code)]
