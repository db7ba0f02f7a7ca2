// Package zerotrust takes an [Intent], which says who may talk to whom, to a
// running cluster, and proves it edge by edge.
//
// [Entries], [Policies], [Manifests] and [Matrix] derive from the intent, without a
// cluster, who each workload is, who may talk to whom, what runs, and how each edge
// and each absence of one is to be proven. A [Stack] has the standard phases: run
// them with package phase, or let them only verify.
package zerotrust
