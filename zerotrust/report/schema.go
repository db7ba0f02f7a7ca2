package report

import _ "embed"

//go:embed schema.json
var schema string

// Schema is the JSON Schema (draft 2020-12) of the document that JSON writes. As fields may
// be added, it takes those that it does not know.
func Schema() []byte { return []byte(schema) }
