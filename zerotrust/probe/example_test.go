package probe_test

import (
	"fmt"

	"github.com/org/spire-vault-99-action/zerotrust/probe"
)

// What Try returns, in words.
func ExampleAttempt() {
	for _, a := range []probe.Attempt{
		{Target: "db:5432", Address: "10.96.0.7:5432", LocalPort: 40001, Connected: true, Seconds: 0.002},
		{Target: "api:8000", Address: "10.96.0.8:8000", LocalPort: 40002, Connected: true, Answer: "hello", Seconds: 0.003},
		{Target: "vault:8200", Address: "10.96.0.9:8200", LocalPort: 40003, Kind: probe.KindTimeout, Error: "i/o timeout", Seconds: 4},
	} {
		fmt.Printf("%s: %s\n", a.Target, a)
	}
	// Output:
	// db:5432: connected to 10.96.0.7:5432 in 0.002 s
	// api:8000: connected to 10.96.0.8:8000 in 0.003 s: "hello"
	// vault:8200: timeout after 4.0 s: i/o timeout
}
