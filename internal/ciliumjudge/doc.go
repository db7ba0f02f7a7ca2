// Package ciliumjudge lets Cilium's own policy engine judge the policies that zerotrust
// derives: that they allow what the intent says, and nothing else. It has tests alone.
//
// It is a module of its own for two reasons. The engine has a hundred modules below it,
// which users of the SDK need not download. And it does not compile with the Kubernetes
// modules of the parent, which are newer. So the two meet in no program: derive.go is built
// in the parent's module, and the tests talk to it.
//
// Run them with
//
//	go -C internal/ciliumjudge test -count=1
//
// because the go command does not see that a test's result depends on the parent's code,
// and would take it from its cache.
package ciliumjudge
