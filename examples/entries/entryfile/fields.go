package entryfile

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"github.com/org/spire-vault-99-action/spire"
)

// setter reads one field into an entry.
type setter func(*yaml.Node, *spire.Entry) error

var ownFields = map[string]setter{
	"spiffeID":      func(n *yaml.Node, e *spire.Entry) error { return id(n, &e.SPIFFEID) },
	"parentID":      func(n *yaml.Node, e *spire.Entry) error { return id(n, &e.ParentID) },
	"selectors":     func(n *yaml.Node, e *spire.Entry) error { return list(n, &e.Selectors, selector) },
	"x509TTL":       func(n *yaml.Node, e *spire.Entry) error { return duration(n, &e.X509TTL) },
	"jwtTTL":        func(n *yaml.Node, e *spire.Entry) error { return duration(n, &e.JWTTTL) },
	"admin":         func(n *yaml.Node, e *spire.Entry) error { return boolean(n, &e.Admin) },
	"downstream":    func(n *yaml.Node, e *spire.Entry) error { return boolean(n, &e.Downstream) },
	"storeSVID":     func(n *yaml.Node, e *spire.Entry) error { return boolean(n, &e.StoreSVID) },
	"federatesWith": func(n *yaml.Node, e *spire.Entry) error { return list(n, &e.FederatesWith, trustDomain) },
	"dnsNames":      func(n *yaml.Node, e *spire.Entry) error { return list(n, &e.DNSNames, str) },
	"hint":          func(n *yaml.Node, e *spire.Entry) error { return str(n, &e.Hint) },
	"expiresAt":     func(n *yaml.Node, e *spire.Entry) error { return instant(n, &e.ExpiresAt) },
}

// manifestFields are those of a ClusterStaticEntry's spec.
// https://github.com/spiffe/spire-controller-manager/blob/v0.6.3/docs/clusterstaticentry-crd.md
var manifestFields = map[string]setter{
	"spiffeID":      ownFields["spiffeID"],
	"parentID":      ownFields["parentID"],
	"selectors":     ownFields["selectors"],
	"federatesWith": ownFields["federatesWith"],
	"x509SVIDTTL":   ownFields["x509TTL"],
	"jwtSVIDTTL":    ownFields["jwtTTL"],
	"dnsNames":      ownFields["dnsNames"],
	"hint":          ownFields["hint"],
	"admin":         ownFields["admin"],
	"downstream":    ownFields["downstream"],
	"storeSVID":     ownFields["storeSVID"],
	"className":     ignored,
}

// serverFields are those of spire-server's own files. What is the server's to say is
// read past.
// https://github.com/spiffe/spire/blob/v1.13.3/proto/spire/common/common.proto
var serverFields = map[string]setter{
	"spiffe_id":       ownFields["spiffeID"],
	"parent_id":       ownFields["parentID"],
	"selectors":       func(n *yaml.Node, e *spire.Entry) error { return list(n, &e.Selectors, pair) },
	"x509_svid_ttl":   func(n *yaml.Node, e *spire.Entry) error { return seconds(n, &e.X509TTL) },
	"jwt_svid_ttl":    func(n *yaml.Node, e *spire.Entry) error { return seconds(n, &e.JWTTTL) },
	"admin":           ownFields["admin"],
	"downstream":      ownFields["downstream"],
	"store_svid":      ownFields["storeSVID"],
	"federates_with":  ownFields["federatesWith"],
	"dns_names":       ownFields["dnsNames"],
	"hint":            ownFields["hint"],
	"entryExpiry":     expiry,
	"entry_expiry":    expiry,
	"entry_id":        ignored,
	"revision_number": ignored,
	"created_at":      ignored,
}

func ignored(*yaml.Node, *spire.Entry) error { return nil }

func str(n *yaml.Node, to *string) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("want a text, this is %s", kindOf(n))
	}
	*to = n.Value
	return nil
}

func boolean(n *yaml.Node, to *bool) error {
	if n.Tag != "!!bool" || n.Decode(to) != nil {
		return fmt.Errorf("want true or false, this is %s", kindOf(n))
	}
	return nil
}

func id(n *yaml.Node, to *spiffeid.ID) (err error) {
	var s string
	if err := str(n, &s); err != nil {
		return err
	}
	if *to, err = spiffeid.FromString(s); err != nil {
		return fmt.Errorf("%q: %w", s, err)
	}
	return nil
}

// trustDomain also takes the SPIFFE ID of one, which is how spire-server prints it.
func trustDomain(n *yaml.Node, to *spiffeid.TrustDomain) (err error) {
	var s string
	if err := str(n, &s); err != nil {
		return err
	}
	if *to, err = spiffeid.TrustDomainFromString(s); err != nil {
		return fmt.Errorf("%q: %w", s, err)
	}
	return nil
}

func selector(n *yaml.Node, to *spire.Selector) (err error) {
	var s string
	if err := str(n, &s); err != nil {
		return err
	}
	*to, err = spire.ParseSelector(s)
	return err
}

// pair is a selector of two fields.
func pair(n *yaml.Node, to *spire.Selector) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("want type and value, this is %s", kindOf(n))
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		var err error
		switch key := n.Content[i].Value; key {
		case "type":
			err = str(n.Content[i+1], &to.Type)
		case "value":
			err = str(n.Content[i+1], &to.Value)
		default:
			err = fmt.Errorf("unknown field %s: there are type, value", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func duration(n *yaml.Node, to *time.Duration) (err error) {
	if n.Tag == "!!int" {
		return fmt.Errorf("%s has no unit: want a duration such as 1h or %ss", n.Value, n.Value)
	}
	if *to, err = time.ParseDuration(n.Value); err != nil {
		return fmt.Errorf("want a duration such as 1h or 30m, this is %s", kindOf(n))
	}
	return nil
}

func number(n *yaml.Node) (i int64, err error) {
	if n.Tag != "!!int" || n.Decode(&i) != nil || i < 0 {
		return 0, fmt.Errorf("want a whole number, zero or more, this is %s", kindOf(n))
	}
	return i, nil
}

func seconds(n *yaml.Node, to *time.Duration) error {
	i, err := number(n)
	if err == nil && i > math.MaxInt32 {
		err = fmt.Errorf("%d seconds are too many", i)
	}
	*to = time.Duration(i) * time.Second
	return err
}

func expiry(n *yaml.Node, e *spire.Entry) error {
	i, err := number(n)
	if i > 0 && err == nil {
		e.ExpiresAt = time.Unix(i, 0).UTC()
	}
	return err
}

func instant(n *yaml.Node, to *time.Time) error {
	t, err := time.Parse(time.RFC3339, n.Value)
	if err != nil {
		return fmt.Errorf("want a time such as 2030-01-01T00:00:00Z, this is %s", kindOf(n))
	}
	*to = t.UTC()
	return nil
}

// inner is a fault within a list: at is where.
type inner struct {
	error
	at *yaml.Node
}

func (e *inner) Unwrap() error { return e.error }

func list[T any](n *yaml.Node, to *[]T, read func(*yaml.Node, *T) error) error {
	if n.Kind != yaml.SequenceNode {
		hint := ""
		if n.Kind == yaml.ScalarNode && strings.TrimSpace(n.Value) != "" {
			hint = fmt.Sprintf(": write [%s]", n.Value)
		}
		return fmt.Errorf("want a list, this is %s%s", kindOf(n), hint)
	}
	for _, item := range n.Content {
		var v T
		if err := read(item, &v); err != nil {
			return &inner{err, item}
		}
		*to = append(*to, v)
	}
	return nil
}
