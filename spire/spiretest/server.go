// Package spiretest has SPIRE servers for tests: Start runs the Entry and Agent services
// in process and in memory, reached by real gRPC; StartReal runs SPIRE's own programs.
//
// The in-process server answers as SPIRE 1.13 does in all that clients build on: a status for each
// entry of a batch, AlreadyExists together with the entry that has the same
// SPIFFE ID, parent and selectors, pages that end with an empty one, revision
// numbers. The same tests run against it and against a real server.
package spiretest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
)

// Server is an in-process SPIRE server. Its methods may be called at any time.
type Server struct {
	entryv1.UnimplementedEntryServer
	agentv1.UnimplementedAgentServer
	bundlev1.UnimplementedBundleServer

	td   spiffeid.TrustDomain
	conn *grpc.ClientConn

	mu     sync.Mutex
	nextID int64
	rows   []row // by row number, as the real one's table
	agents []*types.Agent
	known  map[string]bool // the trust domains whose bundles it has
	calls  map[string]int
	fail   func(method string, call int) error
}

type row struct {
	n     int64
	entry *types.Entry
}

// Start runs a server for td until the test ends.
func Start(t testing.TB, td spiffeid.TrustDomain) *Server {
	t.Helper()
	s := &Server{td: td, calls: map[string]int{}, known: map[string]bool{}}
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	entryv1.RegisterEntryServer(server, s)
	agentv1.RegisterAgentServer(server, s)
	bundlev1.RegisterBundleServer(server, s)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)

	conn, err := grpc.NewClient("passthrough:///spiretest",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatalf("connect to the in-process SPIRE server: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s.conn = conn
	return s
}

// Conn is a connection to the server, with admin rights.
func (s *Server) Conn() grpc.ClientConnInterface { return s.conn }

// Fail has fail decide before each call whether it fails: method is the RPC's
// short name, call counts from 1. A nil error lets it through; nil ends it.
func (s *Server) Fail(fail func(method string, call int) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.calls = fail, map[string]int{}
}

// Calls is how often the RPC with this short name was called, since the last Fail.
func (s *Server) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

// AddAgent has the server know an attested agent.
func (s *Server) AddAgent(a *types.Agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents = append(s.agents, a)
}

func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	s.mu.Lock()
	s.calls[method]++
	call, fail := s.calls[method], s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(method, call); err != nil {
			return nil, err
		}
	}
	return next(ctx, req)
}

// CountEntries counts all entries; filters are not supported.
func (s *Server) CountEntries(_ context.Context, req *entryv1.CountEntriesRequest) (*entryv1.CountEntriesResponse, error) {
	if req.Filter != nil {
		return nil, status.Error(codes.Unimplemented, "spiretest: no filters in CountEntries")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &entryv1.CountEntriesResponse{Count: int32(len(s.rows))}, nil
}

// ListEntries lists by row number. The token of a page is the row number of its last
// entry, and the list ends with an empty page, as in the real one.
func (s *Server) ListEntries(_ context.Context, req *entryv1.ListEntriesRequest) (*entryv1.ListEntriesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var after int64
	if req.PageToken != "" {
		var err error
		if after, err = strconv.ParseInt(req.PageToken, 10, 64); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "failed to list entries: could not parse token '%s'", req.PageToken)
		}
	}
	match, err := filter(req.Filter)
	if err != nil {
		return nil, err
	}
	resp := &entryv1.ListEntriesResponse{}
	for _, r := range s.rows {
		if r.n <= after || !match(r.entry) {
			continue
		}
		if req.PageSize > 0 && len(resp.Entries) == int(req.PageSize) {
			break
		}
		e := proto.CloneOf(r.entry)
		if req.OutputMask != nil {
			return nil, status.Error(codes.Unimplemented, "spiretest: no output mask in ListEntries")
		}
		resp.Entries = append(resp.Entries, e)
		if req.PageSize > 0 {
			resp.NextPageToken = strconv.FormatInt(r.n, 10)
		}
	}
	return resp, nil
}

func filter(f *entryv1.ListEntriesRequest_Filter) (func(*types.Entry) bool, error) {
	if f.GetBySelectors() != nil || f.GetByFederatesWith() != nil || f.GetByHint() != nil || f.GetByDownstream() != nil {
		return nil, status.Error(codes.Unimplemented, "spiretest: only SPIFFE ID and parent ID filters")
	}
	return func(e *types.Entry) bool {
		return (f.GetBySpiffeId() == nil || proto.Equal(f.BySpiffeId, e.SpiffeId)) &&
			(f.GetByParentId() == nil || proto.Equal(f.ByParentId, e.ParentId))
	}, nil
}

// GetEntry gets one entry.
func (s *Server) GetEntry(_ context.Context, req *entryv1.GetEntryRequest) (*types.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.find(req.Id); i >= 0 {
		return proto.CloneOf(s.rows[i].entry), nil
	}
	return nil, status.Error(codes.NotFound, "entry not found")
}

// BatchCreateEntry creates entries, each with its own status.
func (s *Server) BatchCreateEntry(_ context.Context, req *entryv1.BatchCreateEntryRequest) (*entryv1.BatchCreateEntryResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &entryv1.BatchCreateEntryResponse{}
	for _, e := range req.Entries {
		resp.Results = append(resp.Results, s.create(e))
	}
	return resp, nil
}

func (s *Server) create(e *types.Entry) *entryv1.BatchCreateEntryResponse_Result {
	type result = entryv1.BatchCreateEntryResponse_Result
	if err := s.check(e, nil); err != nil {
		return &result{Status: st(codes.InvalidArgument, "failed to convert entry: %v", err)}
	}
	if len(e.Id) > 255 || strings.ContainsFunc(e.Id, badIDChar) {
		return &result{Status: st(codes.Internal, "failed to create entry: datastore-validation: invalid registration entry: entry ID")}
	}
	for _, r := range s.rows {
		if similar(r.entry, e) {
			return &result{Status: st(codes.AlreadyExists, "similar entry already exists"), Entry: proto.CloneOf(r.entry)}
		}
	}
	if e.Id != "" && s.find(e.Id) >= 0 {
		return &result{Status: st(codes.AlreadyExists, "failed to create entry: datastore-sql: UNIQUE constraint failed: registered_entries.entry_id")}
	}
	if err := s.federates(e); err != nil {
		return &result{Status: st(codes.Internal, "failed to create entry: %v", err)}
	}
	e = proto.CloneOf(e)
	s.nextID++
	if e.Id == "" {
		e.Id = fmt.Sprintf("00000000-0000-4000-8000-%012d", s.nextID)
	}
	e.RevisionNumber, e.CreatedAt, e.AdditionalAttributes = 0, time.Now().Unix(), nil
	s.rows = append(s.rows, row{s.nextID, e})
	return &result{Status: st(codes.OK, ""), Entry: proto.CloneOf(e)}
}

// BatchUpdateEntry sets the fields of the input mask. Like the real one it does not
// look for similar entries.
func (s *Server) BatchUpdateEntry(_ context.Context, req *entryv1.BatchUpdateEntryRequest) (*entryv1.BatchUpdateEntryResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &entryv1.BatchUpdateEntryResponse{}
	for _, e := range req.Entries {
		r := &entryv1.BatchUpdateEntryResponse_Result{}
		resp.Results = append(resp.Results, r)
		i := s.find(e.Id)
		if err := s.check(e, req.InputMask); err != nil {
			r.Status = st(codes.InvalidArgument, "failed to convert entry: %v", err)
		} else if i < 0 {
			r.Status = st(codes.NotFound, "failed to update entry: datastore-sql: record not found")
		} else if err := s.federates(e); err != nil {
			r.Status = st(codes.Internal, "failed to update entry: %v", err)
		} else {
			s.rows[i].entry = updated(s.rows[i].entry, e, req.InputMask)
			r.Status = st(codes.OK, "")
		}
	}
	return resp, nil
}

func updated(old, e *types.Entry, m *types.EntryMask) *types.Entry {
	u := proto.CloneOf(old)
	e = proto.CloneOf(e)
	if m == nil {
		e.RevisionNumber, e.CreatedAt, e.AdditionalAttributes = old.RevisionNumber+1, old.CreatedAt, nil
		return e
	}
	set := func(on bool, f func()) {
		if on {
			f()
		}
	}
	set(m.SpiffeId, func() { u.SpiffeId = e.SpiffeId })
	set(m.ParentId, func() { u.ParentId = e.ParentId })
	set(m.Selectors, func() { u.Selectors = e.Selectors })
	set(m.X509SvidTtl, func() { u.X509SvidTtl = e.X509SvidTtl })
	set(m.JwtSvidTtl, func() { u.JwtSvidTtl = e.JwtSvidTtl })
	set(m.FederatesWith, func() { u.FederatesWith = e.FederatesWith })
	set(m.Admin, func() { u.Admin = e.Admin })
	set(m.Downstream, func() { u.Downstream = e.Downstream })
	set(m.ExpiresAt, func() { u.ExpiresAt = e.ExpiresAt })
	set(m.DnsNames, func() { u.DnsNames = e.DnsNames })
	set(m.StoreSvid, func() { u.StoreSvid = e.StoreSvid })
	set(m.Hint, func() { u.Hint = e.Hint })
	u.RevisionNumber++
	return u
}

// BatchDeleteEntry deletes entries, each with its own status.
func (s *Server) BatchDeleteEntry(_ context.Context, req *entryv1.BatchDeleteEntryRequest) (*entryv1.BatchDeleteEntryResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &entryv1.BatchDeleteEntryResponse{}
	for _, id := range req.Ids {
		r := &entryv1.BatchDeleteEntryResponse_Result{Id: id, Status: st(codes.OK, "")}
		resp.Results = append(resp.Results, r)
		if id == "" {
			r.Status = st(codes.InvalidArgument, "missing entry ID")
		} else if i := s.find(id); i < 0 {
			r.Status = st(codes.NotFound, "entry not found")
		} else {
			s.rows = slices.Delete(s.rows, i, i+1)
		}
	}
	return resp, nil
}

// ListAgents lists the agents of AddAgent, in pages as ListEntries.
func (s *Server) ListAgents(_ context.Context, req *agentv1.ListAgentsRequest) (*agentv1.ListAgentsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, _ := strconv.Atoi(req.PageToken)
	to := len(s.agents)
	resp := &agentv1.ListAgentsResponse{}
	if n := int(req.PageSize); n > 0 && from < to {
		to = min(to, from+n)
		resp.NextPageToken = strconv.Itoa(to)
	}
	for _, a := range s.agents[min(from, to):to] {
		resp.Agents = append(resp.Agents, proto.CloneOf(a))
	}
	return resp, nil
}

func (s *Server) find(id string) int {
	return slices.IndexFunc(s.rows, func(r row) bool { return r.entry.Id == id })
}

// check is what the real server looks at before its datastore does.
func (s *Server) check(e *types.Entry, m *types.EntryMask) error {
	if m == nil || m.ParentId {
		if err := s.member(e.ParentId); err != nil {
			return fmt.Errorf("invalid parent ID: %w", err)
		}
	}
	if m == nil || m.SpiffeId {
		if err := s.member(e.SpiffeId); err != nil {
			return fmt.Errorf("invalid spiffe ID: %w", err)
		}
		if p := e.SpiffeId.Path; p == "/spire" || strings.HasPrefix(p, "/spire/") {
			return fmt.Errorf("invalid spiffe ID: %q is in the reserved namespace", p)
		}
	}
	if m == nil || m.Selectors {
		if len(e.Selectors) == 0 {
			return errors.New("selector list is empty")
		}
		for _, sel := range e.Selectors {
			if sel.Type == "" || sel.Value == "" || strings.Contains(sel.Type, ":") {
				return errors.New("missing selector type or value, or a ':' in the type")
			}
		}
	}
	if len(e.Hint) > 1024 {
		return errors.New("hint is too long, max length is 1024 characters")
	}
	return nil
}

func (s *Server) member(p *types.SPIFFEID) error {
	td, err := spiffeid.TrustDomainFromString(p.GetTrustDomain())
	if err != nil {
		return err
	}
	id, err := spiffeid.FromPath(td, p.GetPath())
	if err != nil {
		return err
	}
	if !id.MemberOf(s.td) || id.Path() == "" {
		return fmt.Errorf("%q is not a member of trust domain %q", id, s.td)
	}
	return nil
}

// federates: an entry may only name trust domains whose bundles the server has.
func (s *Server) federates(e *types.Entry) error {
	for _, td := range e.FederatesWith {
		if !s.known[td] {
			return fmt.Errorf("unable to find federated bundle %q", "spiffe://"+td)
		}
	}
	return nil
}

// BatchSetFederatedBundle has the server know the trust domains of the bundles.
func (s *Server) BatchSetFederatedBundle(_ context.Context, req *bundlev1.BatchSetFederatedBundleRequest) (*bundlev1.BatchSetFederatedBundleResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &bundlev1.BatchSetFederatedBundleResponse{}
	for _, b := range req.Bundle {
		s.known[b.TrustDomain] = true
		resp.Results = append(resp.Results, &bundlev1.BatchSetFederatedBundleResponse_Result{Status: st(codes.OK, ""), Bundle: b})
	}
	return resp, nil
}

// similar is the server's notion of the same entry.
func similar(a, b *types.Entry) bool {
	return proto.Equal(a.SpiffeId, b.SpiffeId) && proto.Equal(a.ParentId, b.ParentId) &&
		slices.Equal(selectors(a), selectors(b))
}

func selectors(e *types.Entry) []string {
	var out []string
	for _, s := range e.Selectors {
		out = append(out, s.Type+":"+s.Value)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func badIDChar(r rune) bool {
	return !(r == '-' || r == '.' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
}

func st(c codes.Code, format string, args ...any) *types.Status {
	return &types.Status{Code: int32(c), Message: fmt.Sprintf(format, args...)}
}
