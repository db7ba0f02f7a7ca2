package phase

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// plan checks the graph and returns the phases to run, each after all of its needs.
// Needs that were not given themselves are part of it. With only, the phases of these
// names and all that they need are left.
func plan(phases []*Phase, only []string) ([]*Phase, error) {
	order, err := sorted(phases)
	if err != nil {
		return nil, err
	}
	if err := validate(order); err != nil {
		return nil, err
	}
	if len(only) == 0 {
		return order, nil
	}
	var chosen []*Phase
	var unknown []string
	for _, name := range only {
		i := slices.IndexFunc(order, func(p *Phase) bool { return p.Name == name })
		if i < 0 {
			unknown = append(unknown, name)
			continue
		}
		chosen = append(chosen, order[i])
	}
	if len(unknown) > 0 {
		var names []string
		for _, p := range order {
			names = append(names, p.Name)
		}
		return nil, fmt.Errorf("phase: no phase is named %q; there are: %s", unknown, strings.Join(names, ", "))
	}
	return sorted(slices.DeleteFunc(order, func(p *Phase) bool { return !slices.Contains(chosen, p) }))
}

// sorted is the phases and all that they need, needs first, otherwise in the order
// given. A cycle is an error.
func sorted(phases []*Phase) ([]*Phase, error) {
	var order, path []*Phase
	done := map[*Phase]bool{}
	var visit func(p *Phase, by string) error
	visit = func(p *Phase, by string) error {
		if p == nil {
			return fmt.Errorf("phase: %s is nil", by)
		}
		if i := slices.Index(path, p); i >= 0 {
			var names []string
			for _, q := range append(path[i:], p) {
				names = append(names, fmt.Sprintf("%q", q.Name))
			}
			return fmt.Errorf("phase: the needs form a cycle: %s", strings.Join(names, " needs "))
		}
		if done[p] {
			return nil
		}
		path = append(path, p)
		for i, need := range p.Needs {
			if err := visit(need, fmt.Sprintf("need %d of phase %q", i+1, p.Name)); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		done[p] = true
		order = append(order, p)
		return nil
	}
	for i, p := range phases {
		if err := visit(p, fmt.Sprintf("phase %d of %d", i+1, len(phases))); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// validate tells everything that is wrong with the phases, not only the first thing.
func validate(phases []*Phase) error {
	var wrong []error
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf("phase: "+format, args...)) }
	if len(phases) == 0 {
		say("there is no phase to run")
	}
	names := map[string]bool{}
	for _, p := range phases {
		switch {
		case strings.TrimSpace(p.Name) == "":
			say("a phase (%q) has no name", p.Doc)
		case names[p.Name]:
			say("two phases are named %q", p.Name)
		}
		names[p.Name] = true
		if p.Timeout < 0 {
			say("phase %q has a negative timeout", p.Name)
		}
		if len(p.Checks) == 0 {
			say("phase %q has no check: it would prove nothing", p.Name)
		}
		checks := map[string]bool{}
		for i, c := range p.Checks {
			switch {
			case strings.TrimSpace(c.Name) == "":
				say("check %d of phase %q has no name", i+1, p.Name)
			case checks[c.Name]:
				say("two checks of phase %q are named %q", p.Name, c.Name)
			}
			checks[c.Name] = true
			if c.Run == nil {
				say("check %q of phase %q has nothing to run", c.Name, p.Name)
			}
		}
	}
	return errors.Join(wrong...)
}
