package zerotrust

import _ "embed"

//go:embed precinct99.yaml
var precinct99 []byte

// Precinct99 is the demo: precinct99.yaml, which lies beside the code.
func Precinct99() Intent {
	in, err := ParseIntent("precinct99.yaml", precinct99)
	if err != nil {
		panic(err) // the file is part of the program, and a test reads it
	}
	return in
}
