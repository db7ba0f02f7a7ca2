//go:build !linux

package main

import (
	"context"
	"errors"
)

type packets struct{}

func listenAll() (*packets, error) { return nil, errors.New("this is possible on Linux alone") }

func (*packets) close() {}

func (*packets) read(context.Context, func(int, byte, uint16, []byte)) (Traffic, error) {
	return Traffic{}, errors.New("this is possible on Linux alone")
}
