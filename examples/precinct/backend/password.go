package main

import (
	"context"
	"runtime"

	"golang.org/x/crypto/bcrypt"
)

// seedCost is the cost of the seeded users' hashes: a login takes less than 300 ms on
// a slow core.
const seedCost = 10

// longest is bcrypt's limit in bytes. What is beyond it would not count.
const longest = 72

// passwords hashes and compares, on all cores but not more at once: hashing must not
// starve everything else.
type passwords struct {
	cost  int
	dummy []byte // a hash of nobody's password
	slots chan struct{}
}

func newPasswords(cost int) (*passwords, error) {
	dummy, err := bcrypt.GenerateFromPassword([]byte("nobody's password"), cost)
	if err != nil {
		return nil, err
	}
	return &passwords{cost: cost, dummy: dummy, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}, nil
}

// hash is of at most longest bytes.
func (p *passwords) hash(ctx context.Context, password string) ([]byte, error) {
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	defer p.leave()
	return bcrypt.GenerateFromPassword([]byte(password), p.cost)
}

// match compares, and takes as long where there is no hash, because there is no such
// user, or where the password is too long to be anyone's.
func (p *passwords) match(ctx context.Context, hash []byte, password string) (bool, error) {
	if err := p.enter(ctx); err != nil {
		return false, err
	}
	defer p.leave()
	possible := hash != nil && len(password) <= longest
	if !possible {
		hash, password = p.dummy, "another password"
	}
	return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && possible, nil
}

func (p *passwords) enter(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *passwords) leave() { <-p.slots }
