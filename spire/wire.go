package spire

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

func toProto(e Entry) *types.Entry {
	p := &types.Entry{
		Id:          e.ID,
		SpiffeId:    idToProto(e.SPIFFEID),
		ParentId:    idToProto(e.ParentID),
		X509SvidTtl: int32(e.X509TTL / time.Second),
		JwtSvidTtl:  int32(e.JWTTTL / time.Second),
		Admin:       e.Admin,
		Downstream:  e.Downstream,
		StoreSvid:   e.StoreSVID,
		DnsNames:    e.DNSNames,
		Hint:        e.Hint,
		ExpiresAt:   unix(e.ExpiresAt),
	}
	for _, s := range selectorSet(e.Selectors) {
		p.Selectors = append(p.Selectors, &types.Selector{Type: s.Type, Value: s.Value})
	}
	for _, td := range domainSet(e.FederatesWith) {
		p.FederatesWith = append(p.FederatesWith, td.Name())
	}
	return p
}

func fromProto(p *types.Entry) (Entry, error) {
	e := Entry{
		ID:             p.GetId(),
		Selectors:      selectorsFromProto(p.GetSelectors()),
		X509TTL:        time.Duration(p.GetX509SvidTtl()) * time.Second,
		JWTTTL:         time.Duration(p.GetJwtSvidTtl()) * time.Second,
		Admin:          p.GetAdmin(),
		Downstream:     p.GetDownstream(),
		StoreSVID:      p.GetStoreSvid(),
		DNSNames:       p.GetDnsNames(),
		Hint:           p.GetHint(),
		ExpiresAt:      fromUnix(p.GetExpiresAt()),
		RevisionNumber: p.GetRevisionNumber(),
		CreatedAt:      fromUnix(p.GetCreatedAt()),
	}
	var err error
	if e.SPIFFEID, err = idFromProto(p.GetSpiffeId()); err != nil {
		return e, fmt.Errorf("entry %s from the server: SPIFFE ID: %w", e.ID, err)
	}
	if e.ParentID, err = idFromProto(p.GetParentId()); err != nil {
		return e, fmt.Errorf("entry %s from the server: parent ID: %w", e.ID, err)
	}
	for _, name := range p.GetFederatesWith() {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return e, fmt.Errorf("entry %s from the server: federates with: %w", e.ID, err)
		}
		e.FederatesWith = append(e.FederatesWith, td)
	}
	return e, nil
}

func idToProto(id spiffeid.ID) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: id.TrustDomain().Name(), Path: id.Path()}
}

func idFromProto(p *types.SPIFFEID) (spiffeid.ID, error) {
	td, err := spiffeid.TrustDomainFromString(p.GetTrustDomain())
	if err != nil {
		return spiffeid.ID{}, err
	}
	return spiffeid.FromPath(td, p.GetPath())
}

func selectorsFromProto(ps []*types.Selector) []Selector {
	var out []Selector
	for _, p := range ps {
		out = append(out, Selector{p.GetType(), p.GetValue()})
	}
	return out
}
