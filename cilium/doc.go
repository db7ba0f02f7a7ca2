// Package cilium installs Cilium through its Helm chart, with mutual
// authentication against a SPIRE of your own, and reads back what Cilium says
// about the traffic: status, flows, identities and authenticated pairs.
//
// Everything that decides is pure ([Values], [Render]) and everything that acts
// takes a context and a *rest.Config. Installing is idempotent: [Install] with
// the same chart and the same values finds the release deployed, makes sure that
// it is rolled out, and changes nothing.
//
// Mutual authentication through SPIRE is deprecated in Cilium 1.20 and planned
// for removal in 1.21 (https://github.com/cilium/cilium/issues/47132), so this
// package refuses to configure it for later versions. It authenticates pairs of
// identities; it does not encrypt. Never let it carry a proof alone.
//
// All of Cilium lives in the namespace [Namespace] as the Helm release "cilium".
package cilium
