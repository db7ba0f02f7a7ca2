package spire_test

import (
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/spire"
)

// What a server must have for Cilium and one workload, and what would be done on a
// server that has an old entry of ours and one of somebody else.
func ExampleDiff() {
	td := spiffeid.RequireTrustDomainFromString("demo.local")
	want := append(spire.CiliumEntries(td, "c1"),
		spire.NodeAlias(td, "c1"),
		spire.WorkloadEntry(td, "c1", "shop", "cart"))

	old := spire.WorkloadEntry(td, "c1", "shop", "basket")
	old.ID = spire.EntryID("shop", old)
	other := spire.WorkloadEntry(td, "c1", "bank", "vault")
	other.ID = "2f1c6a0e-6f3b-4c1d-9e57-0a4b8d7c6e5f"

	fmt.Print(spire.Diff([]spire.Entry{old, other}, want, "shop"))
	// Output:
	// entries of shop: 4 to create, 0 to update, 1 to delete, 0 in conflict; 0 unchanged, 1 of others
	// + spiffe://demo.local/cilium-agent (parent spiffe://demo.local/node/c1, selectors k8s:ns:kube-system k8s:sa:cilium)
	// + spiffe://demo.local/cilium-operator (parent spiffe://demo.local/node/c1, selectors k8s:ns:kube-system k8s:sa:cilium-operator)
	// + spiffe://demo.local/node/c1 (parent spiffe://demo.local/spire/server, selectors k8s_psat:cluster:c1)
	// + spiffe://demo.local/ns/shop/sa/cart (parent spiffe://demo.local/node/c1, selectors k8s:ns:shop k8s:sa:cart)
	// - spiffe://demo.local/ns/shop/sa/basket (parent spiffe://demo.local/node/c1, selectors k8s:ns:shop k8s:sa:basket)
}
