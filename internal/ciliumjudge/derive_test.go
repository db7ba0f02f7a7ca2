package ciliumjudge

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
)

// deriving is a running derive.go. It ends when its input does, which is with the tests.
type deriving struct {
	in  *json.Encoder
	out *json.Decoder
}

var start = sync.OnceValues(func() (deriving, error) {
	// The parent's go.mod is not ours to change.
	cmd := exec.Command("go", "-C", "../..", "run", "-mod=readonly", "./internal/ciliumjudge/derive.go")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return deriving{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return deriving{}, err
	}
	return deriving{json.NewEncoder(in), json.NewDecoder(out)}, cmd.Start()
})

// derive has zerotrust derive the policies of an intent's file, or say why it is not valid.
func derive(t testing.TB, file []byte) (policies []byte, invalid string) {
	t.Helper()
	var answer struct {
		Policies []byte
		Invalid  string
	}
	d, err := start()
	if err == nil {
		err = d.in.Encode(file)
	}
	if err == nil {
		err = d.out.Decode(&answer)
	}
	if err != nil {
		t.Fatal(fmt.Errorf("ask derive.go (see above for why it may not have started): %w", err))
	}
	return answer.Policies, answer.Invalid
}
