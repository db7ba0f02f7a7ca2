package fromsource_test

import (
	"fmt"
	"slices"

	"github.com/org/spire-vault-99-action/images/fromsource"
)

func ExampleRefs() {
	refs, err := fromsource.Refs()
	fmt.Println(err, slices.Contains(refs, "kindest/node:v1.37.2"))
	// Output: <nil> true
}
