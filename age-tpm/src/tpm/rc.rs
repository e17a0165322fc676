//! TPM response codes: what they are called and what they mean for us.
//!
//! Owns the reading of the 12-bit code formats. It never decides what to do about one. Follows
//! TPM 2.0 Library Part 2, section 6.6 (TPM_RC).

use std::fmt;

/// A response code other than success.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rc(pub u32);

/// Which handle, session or parameter a format-one code speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The n-th parameter.
    Parameter(u32),
    /// The n-th handle.
    Handle(u32),
    /// The n-th session.
    Session(u32),
}

impl Rc {
    /// The TPM was busy with its NV memory; the same command is to be sent again.
    pub const RETRY: Self = Self(0x922);
    /// The TPM set the command aside; the same command is to be sent again.
    pub const YIELDED: Self = Self(0x908);
    /// The TPM is testing itself; the same command is to be sent again.
    pub const TESTING: Self = Self(0x90a);
    /// Dictionary-attack lockout: authorisations of protected objects are refused.
    pub const LOCKOUT: Self = Self(0x921);
    /// The NV index exists but was never written.
    pub const NV_UNINITIALIZED: Self = Self(0x14a);
    /// TPM2_Startup has not been sent.
    pub const INITIALIZE: Self = Self(0x100);
    /// Out of room for transient objects.
    pub const OBJECT_MEMORY: Self = Self(0x902);

    /// The format-one error number without handle, session or parameter bits, if it is one.
    fn format_one(self) -> Option<u32> {
        // Bit 7 marks format one; codes beyond 12 bits come from other layers.
        (self.0 & !0xfff == 0 && self.0 & 0x80 != 0).then_some(self.0 & 0xbf)
    }

    /// What a format-one code points at.
    pub fn subject(self) -> Option<Subject> {
        self.format_one()?;
        let n = (self.0 >> 8) & 0xf;
        Some(match (self.0 & 0x40 != 0, n) {
            (true, n) => Subject::Parameter(n),
            (false, n @ 0..=7) => Subject::Handle(n),
            (false, n) => Subject::Session(n & 7),
        })
    }

    /// The same command may simply be sent again.
    pub fn is_retry(self) -> bool {
        [Self::RETRY, Self::YIELDED, Self::TESTING].contains(&self)
    }

    /// A handle names nothing that exists (`TPM_RC_HANDLE`).
    pub fn is_no_such_handle(self) -> bool {
        self.format_one() == Some(0x8b)
    }

    /// An authorisation failed and, with `counted`, added to the lockout counter.
    pub fn is_auth_failure(self) -> bool {
        matches!(self.format_one(), Some(0x8e | 0xa2))
    }

    /// A wrapped key does not belong to the parent it was offered to (`TPM_RC_INTEGRITY`).
    pub fn is_foreign_key(self) -> bool {
        // TPM_RC_INTEGRITY; TPM_RC_BINDING (public part does not fit); some chips say TPM_RC_VALUE.
        matches!(self.format_one(), Some(0x9f | 0xa5))
    }

    /// The specification's name, if it is one that we ever met.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.format_one() {
            Some(0x81) => "TPM_RC_ASYMMETRIC",
            Some(0x82) => "TPM_RC_ATTRIBUTES",
            Some(0x83) => "TPM_RC_HASH",
            Some(0x84) => "TPM_RC_VALUE",
            Some(0x85) => "TPM_RC_HIERARCHY",
            Some(0x8a) => "TPM_RC_TYPE",
            Some(0x8b) => "TPM_RC_HANDLE",
            Some(0x8e) => "TPM_RC_AUTH_FAIL",
            Some(0x95) => "TPM_RC_SIZE",
            Some(0x9f) => "TPM_RC_INTEGRITY",
            Some(0xa2) => "TPM_RC_BAD_AUTH",
            Some(0xa5) => "TPM_RC_BINDING",
            Some(0xa7) => "TPM_RC_ECC_POINT",
            Some(_) => return None,
            None => match self.0 {
                0x100 => "TPM_RC_INITIALIZE",
                0x101 => "TPM_RC_FAILURE",
                0x143 => "TPM_RC_COMMAND_CODE",
                0x146 => "TPM_RC_NV_RANGE",
                0x148 => "TPM_RC_NV_LOCKED",
                0x149 => "TPM_RC_NV_AUTHORIZATION",
                0x14a => "TPM_RC_NV_UNINITIALIZED",
                0x14b => "TPM_RC_NV_SPACE",
                0x14c => "TPM_RC_NV_DEFINED",
                0x902 => "TPM_RC_OBJECT_MEMORY",
                0x903 => "TPM_RC_SESSION_MEMORY",
                0x908 => "TPM_RC_YIELDED",
                0x90a => "TPM_RC_TESTING",
                0x920 => "TPM_RC_NV_RATE",
                0x921 => "TPM_RC_LOCKOUT",
                0x922 => "TPM_RC_RETRY",
                0x923 => "TPM_RC_NV_UNAVAILABLE",
                _ => return None,
            },
        })
    }
}

impl fmt::Display for Rc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (0x{:03x})",
            self.name().unwrap_or("TPM error"),
            self.0
        )?;
        match self.subject() {
            Some(Subject::Parameter(n)) if n > 0 => write!(f, " in parameter {n}"),
            Some(Subject::Handle(n)) if n > 0 => write!(f, " in handle {n}"),
            Some(Subject::Session(n)) if n > 0 => write!(f, " in session {n}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Rc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rc({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_seen_on_the_wire_are_read_right() {
        // From command logs against swtpm 0.7.1.
        assert!(Rc(0x18b).is_no_such_handle());
        assert_eq!(Rc(0x18b).to_string(), "TPM_RC_HANDLE (0x18b) in handle 1");
        assert!(Rc(0x98e).is_auth_failure());
        assert_eq!(
            Rc(0x98e).to_string(),
            "TPM_RC_AUTH_FAIL (0x98e) in session 1"
        );
        assert!(Rc(0x1df).is_foreign_key());
        assert_eq!(
            Rc(0x1df).to_string(),
            "TPM_RC_INTEGRITY (0x1df) in parameter 1"
        );
        assert!(Rc(0x922).is_retry() && !Rc(0x921).is_retry());
        assert_eq!(Rc(0xb0001).to_string(), "TPM error (0xb0001)");
    }
}
