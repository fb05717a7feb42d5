"""Where the exposure index comes from: one module per kind of `[[index]]`, the file it is kept in, `build_index`."""
