//! Constructors for ttrpc statuses, used by both servers so that a caller's mistake, a missing thing,
//! a wrong state, an unsupported request and our own failure are told apart everywhere in the same way.

use ttrpc::{Code, Error, error::get_rpc_status};

/// The caller sent something that cannot be meant: a bad name, a path that escapes.
pub fn invalid(message: impl ToString) -> Error {
    get_rpc_status(Code::INVALID_ARGUMENT, message)
}

/// What the caller names does not exist.
pub fn not_found(message: impl ToString) -> Error {
    get_rpc_status(Code::NOT_FOUND, message)
}

/// What the caller wants to make exists already.
pub fn already_exists(message: impl ToString) -> Error {
    get_rpc_status(Code::ALREADY_EXISTS, message)
}

/// Right request, wrong moment: the thing is not in a state that allows it.
pub fn failed_precondition(message: impl ToString) -> Error {
    get_rpc_status(Code::FAILED_PRECONDITION, message)
}

/// Not yet, or not any more: a later try may succeed.
pub fn unavailable(message: impl ToString) -> Error {
    get_rpc_status(Code::UNAVAILABLE, message)
}

/// A stated bound was reached.
pub fn exhausted(message: impl ToString) -> Error {
    get_rpc_status(Code::RESOURCE_EXHAUSTED, message)
}

/// A wait was over before the thing happened.
pub fn deadline(message: impl ToString) -> Error {
    get_rpc_status(Code::DEADLINE_EXCEEDED, message)
}

/// A method that this server does not do, by name.
pub fn unimplemented(method: &str) -> Error {
    get_rpc_status(Code::UNIMPLEMENTED, format!("{method} is not supported"))
}

/// Our own failure.
pub fn internal(message: impl ToString) -> Error {
    get_rpc_status(Code::INTERNAL, message)
}

/// The code and the message of an error that came over the wire; `None` for a broken connection.
pub fn of(error: &Error) -> Option<(Code, &str)> {
    match error {
        Error::RpcStatus(status) => Some((status.code(), status.message())),
        _ => None,
    }
}
