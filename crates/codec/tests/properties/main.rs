//! Properties of the codec over generated input: agreement with amq-protocol, and no panic at all.

mod fields;
mod hostile;
mod oracle;
