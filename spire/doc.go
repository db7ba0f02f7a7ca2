// Package spire keeps the registration entries of a SPIRE server equal to a
// wanted list, over any gRPC connection to that server.
//
// An [Entry] says which workload gets which SPIFFE ID. [Diff] compares what a
// server has with what is wanted and decides, with no I/O, on a [Plan]; [Apply]
// carries a plan out; [Sync] does both, page by page, so that its memory is
// bounded by the wanted list and by the differences, not by the server's table.
//
// # Whose entries
//
// Every caller of Sync has an owner name. The entries it creates get the ID
// "owner." followed by a hash of what SPIRE itself takes for an entry's
// identity: its SPIFFE ID, its parent and its set of selectors. Only entries
// with that prefix are ever changed or deleted. Everything else is foreign and
// left alone, even where it stands in the way: a wanted entry that a foreign one
// already covers is reported as a conflict. Entries below /identity/ are written
// by Cilium's operator and count as foreign whatever their ID is.
//
// The package needs no Kubernetes client; subpackage deploy installs SPIRE into
// a cluster and opens the connection.
//
// # Which servers
//
// It speaks SPIRE's API v1 and runs against SPIRE 1.9.0, 1.10.4, 1.13.3 and 1.14.5 in the
// tests (make spire-versions). Fields that it does not know stay as they are.
package spire
