package spire

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
)

// A page of entries can exceed gRPC's default limit of 4 MiB for a message, at
// which the whole list would fail; an entry with long selectors has some KiB.
const (
	defaultPageSize = 1000
	maxPageBytes    = 64 << 20
)

// ListConfig narrows and tunes a list. The zero value lists everything.
type ListConfig struct {
	// SPIFFEID and ParentID, where set, leave only entries with exactly these.
	SPIFFEID, ParentID spiffeid.ID
	// PageSize is how many entries are asked for at a time. Zero is 1000.
	PageSize int
	// Retry is how calls are repeated when the server is unavailable.
	Retry Retry
}

// Entries walks the server's entries, oldest first, holding two pages at a time. A
// list is no snapshot: what changes while it is read may be seen or not. After an
// error the walk ends.
func Entries(ctx context.Context, conn grpc.ClientConnInterface, cfg ListConfig) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for page, err := range pages(ctx, conn, cfg) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for e, err := range page.entries() {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// pages are the server's entries as they come.
func pages(ctx context.Context, conn grpc.ClientConnInterface, cfg ListConfig) iter.Seq2[page, error] {
	return func(yield func(page, error) bool) {
		req := &entryv1.ListEntriesRequest{PageSize: int32(cfg.PageSize)}
		if req.PageSize <= 0 {
			req.PageSize = defaultPageSize
		}
		if !cfg.SPIFFEID.IsZero() || !cfg.ParentID.IsZero() {
			req.Filter = &entryv1.ListEntriesRequest_Filter{}
			if !cfg.SPIFFEID.IsZero() {
				req.Filter.BySpiffeId = idToProto(cfg.SPIFFEID)
			}
			if !cfg.ParentID.IsZero() {
				req.Filter.ByParentId = idToProto(cfg.ParentID)
			}
		}
		// The next page is on its way while the caller has this one.
		ctx, cancel := context.WithCancel(ctx)
		type answer struct {
			page page
			err  error
		}
		answers := make(chan answer)
		go func() {
			defer close(answers)
			client := entryv1.NewEntryClient(conn)
			for n := 0; ; {
				var got page
				err := cfg.Retry.do(ctx, func() error {
					resp, err := client.ListEntries(ctx, req, grpc.MaxCallRecvMsgSize(maxPageBytes), grpc.ForceCodecV2(rawCodec{}))
					if err == nil {
						got, err = newPage(resp)
					}
					return err
				})
				if err != nil {
					err = fmt.Errorf("list SPIRE entries, after %d of them: %w", n, err)
				}
				n += got.len()
				select {
				case answers <- answer{got, err}:
				case <-ctx.Done():
					return
				}
				if req.PageToken = got.next; err != nil || req.PageToken == "" {
					return
				}
			}
		}()
		defer func() { // nothing goes on once the walk has ended
			cancel()
			for range answers {
			}
		}()
		last := false
		for a := range answers {
			if !yield(a.page, a.err) || a.err != nil {
				return
			}
			last = a.page.next == ""
		}
		if !last { // part of a list must not pass for all of it
			yield(page{}, fmt.Errorf("list SPIRE entries: %w", context.Cause(ctx)))
		}
	}
}

// List is all of Entries in one slice.
func List(ctx context.Context, conn grpc.ClientConnInterface, cfg ListConfig) ([]Entry, error) {
	var all []Entry
	for e, err := range Entries(ctx, conn, cfg) {
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// Count is the number of entries on the server.
func Count(ctx context.Context, conn grpc.ClientConnInterface) (int, error) {
	var resp *entryv1.CountEntriesResponse
	err := Retry{}.do(ctx, func() (err error) {
		resp, err = entryv1.NewEntryClient(conn).CountEntries(ctx, &entryv1.CountEntriesRequest{})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count SPIRE entries: %w", err)
	}
	return int(resp.GetCount()), nil
}

// Agent is one attested SPIRE agent.
type Agent struct {
	// ID is the agent's own, which changes with its node: see NodeAlias.
	ID spiffeid.ID
	// AttestationType is how it proved its node: "k8s_psat", "join_token".
	AttestationType string
	// ExpiresAt is when its SVID ends; a living agent renews it well before.
	ExpiresAt time.Time
	// Selectors are what attestation found out about the node.
	Selectors []Selector
	Banned    bool
	// CanReattest says whether it can come back by itself after it lost its SVID.
	CanReattest bool
	// Version of the agent, where it told.
	Version string
}

// Selector is the value of the agent's first selector that starts with typ and
// name, such as "k8s_psat", "agent_node_name"; "" if there is none.
func (a Agent) Selector(typ, name string) string {
	for _, s := range a.Selectors {
		if len(s.Value) > len(name) && s.Type == typ && s.Value[:len(name)+1] == name+":" {
			return s.Value[len(name)+1:]
		}
	}
	return ""
}

// Agents lists the agents that have attested to the server, expired ones
// included until the server prunes them.
func Agents(ctx context.Context, conn grpc.ClientConnInterface) ([]Agent, error) {
	req := &agentv1.ListAgentsRequest{PageSize: defaultPageSize}
	client := agentv1.NewAgentClient(conn)
	var all []Agent
	for {
		var page *agentv1.ListAgentsResponse
		err := Retry{}.do(ctx, func() (err error) {
			page, err = client.ListAgents(ctx, req, grpc.MaxCallRecvMsgSize(maxPageBytes))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list SPIRE agents, after %d of them: %w", len(all), err)
		}
		for _, p := range page.GetAgents() {
			a, err := agentFromProto(p)
			if err != nil {
				return nil, err
			}
			all = append(all, a)
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			return all, nil
		}
	}
}

func agentFromProto(p *types.Agent) (Agent, error) {
	id, err := idFromProto(p.GetId())
	if err != nil {
		return Agent{}, fmt.Errorf("agent from the server: %w", err)
	}
	return Agent{
		ID:              id,
		AttestationType: p.GetAttestationType(),
		ExpiresAt:       fromUnix(p.GetX509SvidExpiresAt()),
		Selectors:       selectorsFromProto(p.GetSelectors()),
		Banned:          p.GetBanned(),
		CanReattest:     p.GetCanReattest(),
		Version:         p.GetAgentVersion(),
	}, nil
}
