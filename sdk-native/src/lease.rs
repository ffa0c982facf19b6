//! The fencing token of a delivery, which a client only hands back.

/// A lease's text. Those of a hub are 16 digits and stand here themselves; one is made and copied for every event.
#[derive(Clone)]
pub(crate) enum Lease {
    Short { bytes: [u8; SHORT], len: u8 },
    Long(Box<str>),
}

const SHORT: usize = 22;

impl Lease {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            // It was copied whole from a string.
            Self::Short { bytes, len } => std::str::from_utf8(&bytes[..usize::from(*len)]).unwrap_or_default(),
            Self::Long(text) => text,
        }
    }
}

impl From<&str> for Lease {
    fn from(text: &str) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..text.len()) {
            Some(own) => {
                own.copy_from_slice(text.as_bytes());
                Self::Short { bytes, len: text.len() as u8 }
            }
            None => Self::Long(text.into()),
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_was_made_of() {
        for text in ["", "0123456789abcdef", "ünicode", &"x".repeat(22), &"x".repeat(23), &"x".repeat(500)] {
            assert_eq!(Lease::from(text).as_str(), text);
        }
    }
}
