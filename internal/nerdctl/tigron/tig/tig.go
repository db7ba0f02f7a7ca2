// Package tig stands for a test library of nerdctl's, which its command imports and never calls.
package tig

// T is what nerdctl's package testutil calls.
type T interface {
	Log(args ...any)
	FailNow()
}
