"""Pictures: read from files and arrays, laid out in sheets, drawn as charts."""
