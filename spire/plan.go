package spire

import (
	"fmt"
	"strings"
)

// Plan is what must happen for a server to have what is wanted. The zero Plan
// does nothing.
type Plan struct {
	Owner string

	Create []Change
	Update []Change
	// Delete is carried out last.
	Delete []Change
	// Conflicts are wanted entries that cannot be had; each has a Reason. Apply
	// does nothing about them but report them.
	Conflicts []Change

	// Unchanged counts the owner's entries that are right already, Foreign those
	// of others.
	Unchanged, Foreign int
}

// Change is one step of a Plan.
type Change struct {
	// Have is the entry on the server: zero for a create; for a conflict the
	// entry that stands in the way, if one does.
	Have Entry
	// Want is the entry to be, its ID set: zero for a delete.
	Want Entry
	// Fields are the names of the fields that an update changes.
	Fields []string
	// Reason is why a conflict is one.
	Reason string
}

// Empty says whether there is nothing to do and nothing to report.
func (p Plan) Empty() bool {
	return len(p.Create)+len(p.Update)+len(p.Delete)+len(p.Conflicts) == 0
}

// Summary is the plan's numbers on one line.
func (p Plan) Summary() string {
	return fmt.Sprintf("%d to create, %d to update, %d to delete, %d in conflict; %d unchanged, %d of others",
		len(p.Create), len(p.Update), len(p.Delete), len(p.Conflicts), p.Unchanged, p.Foreign)
}

// String is the plan as a dry run prints it: the numbers, then a line for each
// step (+ create, ~ update, - delete, ! conflict).
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "entries of %s: %s\n", ownerName(p.Owner), p.Summary())
	for _, c := range p.Create {
		fmt.Fprintf(&b, "+ %s\n", c.Want)
	}
	for _, c := range p.Update {
		fmt.Fprintf(&b, "~ %s\n", c.Want)
		for _, f := range c.Fields {
			fmt.Fprintf(&b, "    %s: %s -> %s\n", f, fieldText(c.Have, f), fieldText(c.Want, f))
		}
	}
	for _, c := range p.Delete {
		fmt.Fprintf(&b, "- %s\n", c.Have)
	}
	for _, c := range p.Conflicts {
		fmt.Fprintf(&b, "! %s: %s\n", c.Want, c.Reason)
	}
	return b.String()
}

// fieldText is the value of the field that changed calls name.
func fieldText(e Entry, name string) string {
	switch name {
	case "SPIFFEID":
		return e.SPIFFEID.String()
	case "ParentID":
		return e.ParentID.String()
	case "Selectors":
		return fmt.Sprint(selectorSet(e.Selectors))
	case "X509TTL":
		return e.X509TTL.String()
	case "JWTTTL":
		return e.JWTTTL.String()
	case "Admin":
		return fmt.Sprint(e.Admin)
	case "Downstream":
		return fmt.Sprint(e.Downstream)
	case "StoreSVID":
		return fmt.Sprint(e.StoreSVID)
	case "FederatesWith":
		return fmt.Sprint(domainSet(e.FederatesWith))
	case "DNSNames":
		return fmt.Sprint(e.DNSNames)
	case "Hint":
		return fmt.Sprintf("%q", e.Hint)
	case "ExpiresAt":
		if e.ExpiresAt.IsZero() {
			return "never"
		}
		return e.ExpiresAt.UTC().Format("2006-01-02T15:04:05Z")
	}
	return "?"
}
