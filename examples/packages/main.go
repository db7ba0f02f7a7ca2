// Command packages installs Debian packages that are missing; with all of them there
// it does nothing.
//
//	packages postgresql-15 chromium
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/org/spire-vault-99-action/kindx"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: packages NAME...")
		os.Exit(2)
	}
	if err := kindx.InstallPackages(ctx, os.Args[1:]...); err != nil {
		fmt.Fprintln(os.Stderr, "packages:", err)
		os.Exit(1)
	}
}
