//go:build e2e

package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/internal/loopback"
)

const leasedUsers = `SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'`

// load asks steadily until it is stopped, and counts what it got.
type load struct {
	asked, failed atomic.Int64
	first         atomic.Pointer[string] // what failed first
	stop          func()
}

func (w *world) load(perSecond int, do func(*browser) error) *load {
	l := &load{}
	end := make(chan struct{})
	var wait sync.WaitGroup
	b := w.browser().login("jake")
	wait.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			wait.Go(func() {
				l.asked.Add(1)
				one := *b // the cookie is not shared
				if err := do(&one); err != nil {
					l.failed.Add(1)
					text := err.Error()
					l.first.CompareAndSwap(nil, &text)
				}
			})
		}
	})
	l.stop = sync.OnceFunc(func() { close(end); wait.Wait() })
	w.t.Cleanup(l.stop)
	return l
}

// fine is a request that must succeed.
func fine(method, path string) func(*browser) error {
	return func(b *browser) error {
		got, err := b.try(method, path, "", nil)
		if err != nil {
			return err
		}
		if got.status != http.StatusOK {
			return fmt.Errorf("%s: %d %s", path, got.status, got.body)
		}
		return nil
	}
}

func (l *load) check(t *testing.T, atLeast int64) {
	t.Helper()
	l.stop()
	first := ""
	if p := l.first.Load(); p != nil {
		first = *p
	}
	t.Logf("%d requests, %d failed", l.asked.Load(), l.failed.Load())
	if l.failed.Load() != 0 || l.asked.Load() < atLeast {
		t.Errorf("%d of %d requests failed, the first with: %s", l.failed.Load(), l.asked.Load(), first)
	}
}

func TestE2ETwentyRotationsUnderLoad(t *testing.T) {
	w := started(t)
	b := w.browser().login("amy")
	b.post("/api/github/configure", "token", "ghp_demo_amy")
	me, token := w.load(50, fine("GET", "/api/auth/me")), w.load(10, fine("GET", "/api/demo/database"))
	secret := w.load(5, func(*browser) error { return fine("GET", "/api/github/user")(b) })
	users := map[any]bool{}
	for i := range 20 {
		got := b.do("POST", "/api/demo/rotate", "", nil)
		if got.status != 200 || got.field("old_gone") != true {
			t.Fatalf("rotation %d: %d %s", i+1, got.status, got.body)
		}
		users[got.field("new_user")] = true
	}
	me.check(t, 100)
	token.check(t, 20)
	secret.check(t, 10)
	if len(users) != 20 {
		t.Errorf("%d users in 20 rotations", len(users))
	}
	if got := b.get("/api/demo/database").field("rotations"); got != 20.0 {
		t.Errorf("%v rotations counted", got)
	}
	if n := w.database.count(leasedUsers); n != 1 {
		t.Errorf("%d database users are left, want the current one", n)
	}
}

func TestE2EDemandsAtOnceShareARotation(t *testing.T) {
	w := started(t)
	b := w.browser().login("holt")
	var wait sync.WaitGroup
	var mu sync.Mutex
	seen := map[any]int{}
	for range 8 {
		wait.Go(func() {
			one := *b
			got, err := one.try("POST", "/api/demo/rotate", "", nil)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || got.status != 200 {
				t.Errorf("%d %s %v", got.status, got.body, err)
			}
			seen[got.field("new_user")]++
		})
	}
	wait.Wait()
	if len(seen) > 2 {
		t.Errorf("8 demands at once made %d rotations: %v", len(seen), seen)
	}
}

// A slow statement on the old user's connection ends well, and only then its user goes.
func TestE2EARotationWaitsForWhatIsUnderWay(t *testing.T) {
	w := started(t)
	begun, done := make(chan string), make(chan error, 1)
	go func() {
		done <- w.backend.sessions.Use(t.Context(), func(s *session) error {
			begun <- s.user
			var name string
			if err := s.pool.QueryRow(t.Context(), "SELECT current_user FROM pg_sleep(1.5)").Scan(&name); err != nil {
				return err
			}
			if name != s.user {
				return fmt.Errorf("%s became %s", s.user, name)
			}
			return nil
		})
	}()
	old := <-begun
	change, err := w.backend.sessions.Rotate(t.Context())
	if err != nil || change.Old.user != old || !change.Old.gone.Load() {
		t.Errorf("rotation: %+v, %v", change, err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	default:
		t.Error("the rotation did not wait")
	}
}

func TestE2ERotatesBeforeTheLeaseEnds(t *testing.T) {
	w := newWorld(t)
	w.vault.ttl = 3 * time.Second
	w.vault.start()
	w.start()
	w.waitReady()
	l := w.load(20, fine("GET", "/api/demo/database"))
	loopback.Eventually(t, 20*time.Second, "three rotations", func() error {
		if n := w.backend.sessions.State().Rotations; n < 3 {
			return fmt.Errorf("%d rotations", n)
		}
		return nil
	})
	l.check(t, 20)
	logins := strings.Count(w.log.String(), "new database user")
	if seconds := float64(logins); seconds > 8 {
		t.Errorf("%d users for three rotations", logins)
	}
}

func TestE2EALeaseRevokedOutside(t *testing.T) {
	w := started(t)
	b := w.browser().login("rosa")
	b.post("/api/github/configure", "token", "ghp_demo_rosa")
	w.vault.revokeAll()
	expect(t, "the database, after somebody revoked the lease", b.get("/api/auth/me"), 200, "rosa")
	time.Sleep(2100 * time.Millisecond) // replacing out of turn is limited
	w.vault.set(func() { clear(w.vault.tokens) })
	expect(t, "the secret store, after somebody revoked the token", b.get("/api/github/user"), 200, "rosa-diaz")
	if n := w.backend.sessions.State().Rotations; n != 2 {
		t.Errorf("%d rotations, want one for each", n)
	}
}

// Without pg_terminate_backend a dropped user's connections live on and may do nothing.
func TestE2EAUserDroppedUnderItsConnections(t *testing.T) {
	w := started(t)
	b := w.browser().login("terry")
	name := b.get("/api/demo/database").field("user").(string)
	w.database.exec(fmt.Sprintf(`DROP ROLE "%s"`, name))
	expect(t, "me", b.get("/api/auth/me"), 200, "terry")
	got := b.get("/api/demo/database")
	if got.field("server_user") == name || got.field("rotations") != 1.0 {
		t.Errorf("got %s", got.body)
	}
}
