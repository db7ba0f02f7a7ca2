package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// serve waits until ctx ends or idle has passed without a touch. It listens on an
// abstract unix socket, as there may be no place to write a file to. Such a name is
// known in the pod's whole network namespace: others there can keep serve alive,
// which is all they can do, and each serve in a pod needs a name of its own.
//
// It says one line when it listens.
func serve(ctx context.Context, socket string, idle time.Duration, stdout io.Writer) error {
	l, err := net.Listen("unix", "@"+socket)
	if err != nil {
		return fmt.Errorf("listening for tries: %w", err)
	}
	defer l.Close()
	fmt.Fprintf(stdout, "prober: here until %s pass without a try\n", idle)
	touched := make(chan struct{}, 1)
	failed := make(chan error, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				failed <- err
				return
			}
			conn.Close()
			select {
			case touched <- struct{}{}:
			default: // one is noted already
			}
		}
	}()
	return linger(ctx, idle, touched, failed)
}

// linger returns when ctx ends, when something fails, or when idle has passed since the
// last touch.
func linger(ctx context.Context, idle time.Duration, touched <-chan struct{}, failed <-chan error) error {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case <-touched:
			timer.Reset(idle)
		case err := <-failed:
			return fmt.Errorf("listening for tries: %w", err)
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// touch tells serve that it is needed.
func touch(socket string) error {
	conn, err := net.DialTimeout("unix", "@"+socket, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}
