// Package spireversions holds package spire against other versions of SPIRE than the one
// that the project installs. It has tests alone: make spire-versions runs them.
//
// Each folder is a module that pins one version. Its go.sum has no line that is not in the
// go.sum of SPIRE itself, whose own is in the checksum database.
package spireversions
