// Package kindx brings up local Kubernetes clusters with kind, the same each
// time: Ensure finds a cluster of the wanted configuration, or makes it, or says
// in what the one that is there differs. EnsureEngine does the same for the
// container engine below, and Preflight says beforehand what would go wrong.
//
// A cluster is known again by a fingerprint that Ensure leaves in its control
// plane. What was interrupted halfway is removed, at once when the context ends
// or by the next run when the process was killed.
//
// The package prints nothing and reads no environment; kind, the container
// client and apt, which it runs, do.
package kindx
