//! The proxy against a model of firmware.
