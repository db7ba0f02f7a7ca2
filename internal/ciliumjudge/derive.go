//go:build ignore

// Derive reads intents, and answers each with the policies that zerotrust derives from it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/org/spire-vault-99-action/zerotrust"
)

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var file []byte
		if err := in.Decode(&file); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			exit(err)
		}
		var answer struct {
			Policies []byte // a YAML stream
			Invalid  string // why there are none
		}
		intent, err := zerotrust.ParseIntent("intent.yaml", file)
		if err != nil {
			answer.Invalid = err.Error()
		} else if answer.Policies, err = zerotrust.Policies(intent); err != nil {
			exit(err)
		}
		if err := out.Encode(answer); err != nil {
			exit(err)
		}
	}
}

func exit(err error) {
	fmt.Fprintln(os.Stderr, "derive:", err)
	os.Exit(1)
}
