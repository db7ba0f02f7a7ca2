package images

import (
	"testing"
	"time"
)

func TestEventString(t *testing.T) {
	for want, e := range map[string]Event{
		"build":                               {Verb: "build"},
		"load a:1 b:2 (node) 512 B of 1.5 kB": {Verb: "load", Ref: "a:1 b:2", Node: "node", Done: 512, Total: 1500},
		"load (node) 2.0 MB of 3.1 GB [1.5s]": {Verb: "load", Node: "node", Done: 2e6, Total: 3.1e9, Elapsed: 1500 * time.Millisecond},
		"not found x: one line":               {Verb: "not found", Ref: "x", Detail: "one\nline"},
	} {
		if got := e.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
