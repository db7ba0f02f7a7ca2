package main

import (
	"fmt"
	"slices"

	"github.com/org/spire-vault-99-action/zerotrust"
)

// sourceOf is the folder of the module that the packages of an intent are built in: the one that
// the intent's file belongs to, and root, this action's, for the demo and where nothing is built
// from a package.
func sourceOf(in zerotrust.Intent, file, root string) (string, error) {
	builds := slices.ContainsFunc(in.Workloads, func(w zerotrust.Workload) bool { return w.Package != "" })
	if file == "" || !builds {
		return root, nil
	}
	dir, err := zerotrust.ModuleOf(file)
	if err == nil && dir == "" {
		err = fmt.Errorf("the intent names packages to build, and no go.mod lies beside %s or above it", file)
	}
	return dir, err
}
