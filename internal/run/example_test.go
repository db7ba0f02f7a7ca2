package run_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/org/spire-vault-99-action/internal/run"
)

func Example() {
	_, err := run.Output(context.Background(), "go", "no-such-command")
	var failed *run.Error
	if errors.As(err, &failed) {
		fmt.Println(failed.ExitCode)
	}
	// Output: 2
}
