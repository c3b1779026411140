//! The whole program over a doorbell that is made up.

mod commands;
mod damage;
mod fake;
mod finding;
mod protocol;
