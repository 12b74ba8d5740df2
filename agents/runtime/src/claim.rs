//! Who acts on a lever.
