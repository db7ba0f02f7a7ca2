//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/org/spire-vault-99-action/images/fromsource/sourcetest"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

// each is how many entries there are to create, to update and to delete.
const each = 600

var demo = spiffeid.RequireTrustDomainFromString("demo.local")

// TestE2EKill ends the program, or the server, as SIGKILL does, in each step of an apply.
// The next apply has the server hold exactly what is wanted, and what is somebody else's
// stays the same, byte by byte.
func TestE2EKill(t *testing.T) {
	program := filepath.Join(t.TempDir(), "entries")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	for _, test := range []struct {
		name string
		run  func(*killed)
	}{
		{"the server, which stays away", testServerAway}, // it waits for the longest
		{"the server, which soon is back", testKillServer},
		{"the program", testKillProgram},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // each has its own server
			s := &killed{t: t, dir: t.TempDir(), program: program}
			s.real = spiretest.StartReal(t, spiretest.RealConfig{BinDir: sourcetest.SPIRE(t), TrustDomain: demo, ServerOnly: true})
			s.api = entryv1.NewEntryClient(s.real.Conn)
			s.addForeign()
			same, gone, made := numbered("same", "", 100), numbered("gone", "", each), numbered("made", "", each)
			s.before = slices.Concat(same, numbered("edit", "old", each), gone)
			s.after = slices.Concat(same, numbered("edit", "new", each), made)
			s.start(s.before).ends(0, fmt.Sprintf("%d created", len(s.before)))
			s.holds(s.before)
			test.run(s)
		})
	}
}

// testKillProgram: each run goes on from where the one before was killed.
func testKillProgram(s *killed) {
	for _, in := range steps {
		p := s.start(s.after)
		p.await(in)
		p.kill()
		s.partly(in)
	}
	s.start(s.after).ends(0, "0 created, 0 updated")
	s.holds(s.after)
}

// testKillServer: the run that it happens to waits for the server and goes on.
func testKillServer(s *killed) {
	p := s.start(s.after)
	for _, in := range steps {
		p.await(in)
		s.real.KillServer()
		s.real.RestartServer(s.t)
	}
	stderr := p.ends(0, fmt.Sprintf("%d created, %d updated, %d deleted", each, each, each))
	if n := strings.Count(stderr, "SPIRE server not available, trying again in"); n < len(steps) {
		s.t.Errorf("the server was killed %d times, and the program said so %d times:\n%s", len(steps), n, stderr)
	}
	s.holds(s.after)
}

// testServerAway: the run that it happens to says that much was not done, and why.
func testServerAway(s *killed) {
	p := s.start(s.after)
	p.await(steps[1])
	s.real.KillServer()
	stderr := p.ends(1, "failed")
	for _, part := range []string{"changes not made: ", "given up after 8 attempts", "connection refused"} {
		if !strings.Contains(stderr, part) {
			s.t.Errorf("want %q in what the program says:\n%s", part, stderr)
		}
	}
	s.real.RestartServer(s.t)
	s.partly(steps[1])
	s.start(s.after).ends(0, fmt.Sprintf("0 updated, %d deleted", each))
	s.holds(s.after)
}

// killed is a server and the program, which get killed.
type killed struct {
	t            *testing.T
	real         *spiretest.Real
	api          entryv1.EntryClient
	dir, program string
	// before is on the server at first, after is wanted.
	before, after []spire.Entry
	foreign       map[string]*types.Entry // by ID
}

// numbered are n entries that differ in their number. The server looks at all that have the
// same parent when it creates one.
func numbered(name, hint string, n int) []spire.Entry {
	var out []spire.Entry
	for i := range n {
		out = append(out, spire.Entry{
			SPIFFEID: spiffeid.RequireFromPathf(demo, "/%s/%d", name, i), ParentID: spire.NodeAliasID(demo, fmt.Sprintf("c%d", i%50)),
			Selectors: []spire.Selector{{Type: "k8s", Value: fmt.Sprintf("sa:%s-%d", name, i)}}, Hint: hint,
		})
	}
	return out
}

// file holds the entries for the program to read.
func (s *killed) file(list []spire.Entry) string {
	s.t.Helper()
	type row struct {
		SPIFFEID  string   `json:"spiffeID"`
		ParentID  string   `json:"parentID"`
		Selectors []string `json:"selectors"`
		Hint      string   `json:"hint,omitempty"`
	}
	rows := map[string][]row{}
	for _, e := range list {
		rows["entries"] = append(rows["entries"], row{e.SPIFFEID.String(), e.ParentID.String(), []string{e.Selectors[0].String()}, e.Hint})
	}
	data, err := json.Marshal(rows)
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.dir, "entries.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// addForeign creates what is not the program's, in all the ways there are: under an ID
// of the server's, of another owner and, as Cilium's operator may, of the program's.
func (s *killed) addForeign() {
	s.t.Helper()
	of := func(id, path string) *types.Entry {
		return &types.Entry{
			Id: id, SpiffeId: &types.SPIFFEID{TrustDomain: demo.Name(), Path: path}, ParentId: &types.SPIFFEID{TrustDomain: demo.Name(), Path: "/other"},
			Selectors: []*types.Selector{{Type: "unix", Value: "uid:1"}, {Type: "k8s", Value: "ns:b"}}, DnsNames: []string{"z.test", "a.test"},
			X509SvidTtl: 60, JwtSvidTtl: 30, Admin: true, Downstream: true, ExpiresAt: 4e9, Hint: "theirs",
		}
	}
	req := &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{
		of("", "/edit/1"), of("other.name", "/made/1"), of("zerotrust2.x", "/gone/1"), of("zerotrust.of-cilium", "/identity/7"),
	}}
	resp, err := s.api.BatchCreateEntry(s.t.Context(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range resp.Results {
		if r.Status.Code != int32(codes.OK) {
			s.t.Fatalf("create a foreign entry: %v", r.Status)
		}
	}
	s.foreign = s.ours()
}

// ours are the program's entries on the server. The foreign ones must be as they were.
func (s *killed) ours() map[string]*types.Entry {
	s.t.Helper()
	resp, err := s.api.ListEntries(s.t.Context(), &entryv1.ListEntriesRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	ours := map[string]*types.Entry{}
	foreign := 0
	for _, e := range resp.Entries {
		switch was := s.foreign[e.Id]; {
		case was == nil:
			ours[e.Id] = e
		case !proto.Equal(e, was):
			s.t.Fatalf("a foreign entry was %v\nand is %v", was, e)
		default:
			foreign++
		}
	}
	if foreign != len(s.foreign) {
		s.t.Fatalf("%d foreign entries are left of %d", foreign, len(s.foreign))
	}
	return ours
}

// holds: the server has exactly want, and what was right from the start was never written.
func (s *killed) holds(want []spire.Entry) {
	s.t.Helper()
	ours := s.ours()
	for _, e := range want {
		id := spire.EntryID(spire.DefaultOwner, e)
		got := ours[id]
		delete(ours, id)
		if got == nil {
			s.t.Fatalf("%s is not there", e)
		}
		if strings.HasPrefix(e.SPIFFEID.Path(), "/same/") && got.RevisionNumber != 0 {
			s.t.Fatalf("%s was written though it was right: revision %d", e, got.RevisionNumber)
		}
		got.RevisionNumber, got.CreatedAt = 0, 0
		p := &types.Entry{
			Id: id, SpiffeId: &types.SPIFFEID{TrustDomain: e.SPIFFEID.TrustDomain().Name(), Path: e.SPIFFEID.Path()},
			ParentId:  &types.SPIFFEID{TrustDomain: e.ParentID.TrustDomain().Name(), Path: e.ParentID.Path()},
			Selectors: []*types.Selector{{Type: e.Selectors[0].Type, Value: e.Selectors[0].Value}}, Hint: e.Hint,
		}
		if !proto.Equal(got, p) {
			s.t.Fatalf("on the server is\n%v\nwant\n%v", got, p)
		}
	}
	if len(ours) > 0 {
		s.t.Fatalf("%d entries are there that are not wanted, such as %v", len(ours), slices.Collect(maps.Values(ours))[0])
	}
}

// step is what an apply does with the entries below /name/.
type step struct {
	kind, name string
	done       func(*types.Entry) bool
}

// steps in their order.
var steps = []step{
	{"update", "edit", func(e *types.Entry) bool { return e.GetHint() == "new" }},
	{"create", "made", func(e *types.Entry) bool { return e != nil }},
	{"delete", "gone", func(e *types.Entry) bool { return e == nil }},
}

// middle is the ID of an entry that comes neither in the first calls of the step nor in
// the last.
func (s step) middle() string {
	return spire.EntryID(spire.DefaultOwner, numbered(s.name, "", each)[each*3/8])
}

// partly: of the step's entries some are done and some are not. No entry has been deleted
// before all were created, and none created before all were updated.
func (s *killed) partly(in step) {
	s.t.Helper()
	count := map[string]int{}
	done := 0
	for _, e := range s.ours() {
		name := strings.Split(e.SpiffeId.Path, "/")[1]
		count[name]++
		if name == in.name && in.done(e) {
			done++
		}
	}
	if in.kind == "delete" {
		done = each - count[in.name]
	}
	s.t.Logf("killed after %d of %d %ss", done, each, in.kind)
	if done == 0 || done == each {
		s.t.Errorf("%d of %d %ss were done at the kill, want a part of them", done, each, in.kind)
	}
	want := map[string][2]int{"update": {0, each}, "create": {count["made"], each}, "delete": {each, count["gone"]}}[in.kind]
	if got := [2]int{count["made"], count["gone"]}; got != want || count["edit"] != each {
		s.t.Errorf("killed in %ss: %d are made, %d to go are left, %d are edited; want %d, %d, %d", in.kind, got[0], got[1], count["edit"], want[0], want[1], each)
	}
}

// applying is the program, as a process.
type applying struct {
	*killed
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	exited         chan struct{}
}

func (s *killed) start(want []spire.Entry) *applying {
	s.t.Helper()
	p := &applying{killed: s, exited: make(chan struct{})}
	p.cmd = exec.Command(s.program, "apply", "-socket", s.real.ServerSocket, s.file(want))
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
	})
	return p
}

// await returns when the program is in the middle of a step.
func (p *applying) await(in step) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		e, err := p.api.GetEntry(ctx, &entryv1.GetEntryRequest{Id: in.middle()})
		if code := status.Code(err); code != codes.OK && code != codes.NotFound {
			p.t.Fatalf("look for the middle %s: %v", in.kind, err)
		}
		if in.done(e) {
			return
		}
		select {
		case <-p.exited:
			p.t.Fatalf("the program ended before the middle %s was done: %s\n%s%s", in.kind, p.cmd.ProcessState, p.stdout.Bytes(), p.stderr.Bytes())
		case <-ctx.Done():
			p.t.Fatalf("the middle %s is not done after a minute; last seen: %v, %v", in.kind, e, err)
		case <-tick.C:
		}
	}
}

// kill is SIGKILL, which must be what ended the program.
func (p *applying) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	<-p.exited
	if st, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != syscall.SIGKILL {
		p.t.Fatalf("the program was to be killed, but: %s\n%s%s", p.cmd.ProcessState, p.stdout.Bytes(), p.stderr.Bytes())
	}
}

// ends waits for the program to end by itself.
func (p *applying) ends(code int, part string) (stderr string) {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(time.Minute):
		p.t.Fatalf("the program has not ended after a minute")
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code || !strings.Contains(p.stdout.String(), part) {
		p.t.Fatalf("the program: code %d, want %d and %q\n%s%s", got, code, part, p.stdout.Bytes(), p.stderr.Bytes())
	}
	return p.stderr.String()
}
