package entryfile_test

import (
	"fmt"

	"github.com/org/spire-vault-99-action/examples/entries/entryfile"
)

func ExampleRead() {
	entries, err := entryfile.Read("entries.yaml", []byte(`
entries:
  - spiffeID: spiffe://demo.local/ns/shop/sa/cart
    parentID: spiffe://demo.local/node/c1
    selectors: [k8s:ns:shop, k8s:sa:cart]
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range entries {
		fmt.Println(e.At, e)
	}
	_, err = entryfile.Read("entries.yaml", []byte("entries:\n  - spiffeid: spiffe://demo.local/a\n"))
	fmt.Println(err)
	// Output:
	// entries.yaml:3:5 spiffe://demo.local/ns/shop/sa/cart (parent spiffe://demo.local/node/c1, selectors k8s:ns:shop k8s:sa:cart)
	// entries.yaml:2:5: unknown field spiffeid: it is called spiffeID
}
