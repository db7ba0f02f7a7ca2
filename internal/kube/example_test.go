package kube_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// A wait tells what it last saw.
func ExampleWait() {
	tries := 0
	err := kube.Wait(context.Background(), "the door to open", time.Millisecond, func(context.Context) (bool, string, error) {
		if tries++; tries == 3 {
			return false, "", kube.Permanent(errors.New("it is painted on the wall"))
		}
		return false, "shut", nil
	})
	fmt.Println(err)
	// Output: waiting for the door to open: it is painted on the wall
}
