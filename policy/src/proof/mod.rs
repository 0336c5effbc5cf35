//! What is proven about a plan before it is applied and after: that nobody is locked out by any step, and that the kernel holds what was
//! planned. Reads nothing; applies nothing.

pub mod lockout;
pub mod permitted;
pub mod unread;
pub mod verify;
