//! What the check of a policy's rules found, kept for the next time: which stands in whose shadow is looked for again only where a
//! rule that has changed, come, gone or moved may have a part in it.
//!
//! A rule is in the shadow of the first before it that takes all that it would. So what is known of one holds for as long as no
//! rule of those that take all of its flows came, went or changed places with it, and it stayed itself. [`Index::near`] of a rule
//! names whatever it takes all of, and whatever takes all of it: those are looked at again, and no others.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::change::in_order;
use crate::config::cover_index::Index;
use crate::config::policy::Rule;
use crate::config::schema;

/// What became of the rules of the last time, by their places in the file.
#[derive(Debug, Default)]
pub struct Edits {
    /// For each rule the place where it stood, word for word; `None`: it is new.
    pub came: Vec<Option<u32>>,
    /// Where rules stood that are not there any more.
    pub gone: Vec<u32>,
}

impl Edits {
    /// A change of so much is quicker checked as a whole.
    fn are_few(&self) -> bool {
        let new = self.came.iter().filter(|from| from.is_none()).count();
        new + self.gone.len() <= self.came.len() / 8
    }
}

/// Of a policy without errors. Rules have numbers that stay theirs wherever they stand.
#[derive(Debug, Default)]
pub struct Checked {
    index: Arc<Index>,
    /// Of the rules, in their order.
    numbers: Vec<u32>,
    /// By number: the number of the rule in whose shadow it is.
    shadowed: Vec<Option<u32>>,
    /// Numbers that are nobody's.
    free: Vec<u32>,
    names: HashSet<Arc<str>>,
    /// In their order. They share what they hold with those of the policy.
    rules: Vec<Rule>,
    /// From what is known to what is to be checked; `None`: all of it is new.
    pub edits: Option<Edits>,
    /// Rules whose shadow was looked for the last time.
    pub looked: usize,
}

impl Checked {
    /// Begins anew: nothing is known.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether less than all has to be looked at. What is known is then that of `rules`, but for `shadows`.
    pub fn knows(&self, rules: usize) -> bool {
        self.edits.as_ref().is_some_and(|edits| {
            edits.came.len() == rules
                && edits.are_few()
                && self.numbers.len() + edits.came.iter().filter(|from| from.is_none()).count()
                    == rules + edits.gone.len()
        })
    }

    /// Keeps what was found of a whole list. `shadowed`: for each rule the place of the one that hides it.
    pub fn keep(&mut self, index: Index, rules: &[Rule], shadowed: &[Option<u32>]) -> Arc<Index> {
        *self = Self {
            index: Arc::new(index),
            numbers: (0..rules.len() as u32).collect(),
            shadowed: shadowed.to_vec(),
            free: Vec::new(),
            names: rules.iter().map(|rule| rule.name.clone()).collect(),
            rules: rules.to_vec(),
            edits: None,
            looked: rules.len(),
        };
        self.index.clone()
    }

    /// Follows the edits' names. Whether each is still given once.
    pub fn names_differ(&mut self, rules: &[schema::Rule]) -> bool {
        let Some(edits) = &self.edits else { return false };
        for place in &edits.gone {
            self.names.remove(&self.rules[*place as usize].name);
        }
        let mut new = rules.iter().zip(&edits.came).filter(|(_, from)| from.is_none());
        new.all(|(rule, _)| self.names.insert(rule.name.as_str().into()))
    }

    /// What was made of the rule at this place the last time, where [`Self::knows`].
    pub fn rule(&self, at: usize) -> Option<&Rule> {
        let place = (*self.edits.as_ref()?.came.get(at)?)?;
        self.rules.get(place as usize)
    }

    /// Follows the edits. Answers for each rule the place of the one that hides it, and what finds them.
    pub fn follow(&mut self, rules: &[Rule], hides: impl Fn(&Rule, &Rule) -> bool) -> (Vec<Option<u32>>, Arc<Index>) {
        let Edits { came, gone } = self.edits.take().unwrap_or_default();
        let index = Arc::make_mut(&mut self.index);
        let mut again: Vec<u32> = Vec::new();
        for place in &gone {
            let (number, rule) = (self.numbers[*place as usize], &self.rules[*place as usize]);
            again.extend(index.near_numbers(&rule.matches, &rule.hosts));
            index.remove(number, &rule.matches, &rule.hosts);
            self.shadowed[number as usize] = None;
            self.free.push(number);
        }
        let order: Vec<usize> = came.iter().flatten().map(|place| *place as usize).collect();
        // Those that are still in the order they were in among each other.
        let mut stays = in_order(&order).into_iter();
        let mut changed = Vec::new();
        let mut numbers = Vec::with_capacity(rules.len());
        for (at, (rule, from)) in rules.iter().zip(&came).enumerate() {
            let stayed = from.is_some() && stays.next().unwrap_or(false);
            let number = match from {
                Some(place) => self.numbers[*place as usize],
                None => {
                    let number = self.free.pop().unwrap_or_else(|| {
                        self.shadowed.push(None);
                        self.shadowed.len() as u32 - 1
                    });
                    index.put(number, &rule.matches, &rule.hosts);
                    number
                }
            };
            numbers.push(number);
            if !stayed {
                changed.push((at, number));
            }
        }
        // By number, where it stands.
        let mut places = vec![Index::GONE; self.shadowed.len()];
        numbers.iter().enumerate().for_each(|(at, number)| places[*number as usize] = at as u32);
        index.arrange(places, rules.len());
        for (at, number) in changed {
            let rule = &rules[at];
            again.push(number);
            again.extend(index.near_numbers(&rule.matches, &rule.hosts));
        }
        again.sort_unstable();
        again.dedup();
        self.looked = again.len();
        for number in again {
            // One that has gone since.
            let Some(at) = index.place(number) else { continue };
            let rule = &rules[at];
            let near = index.near(&rule.matches, &rule.hosts);
            let first = near.into_iter().take_while(|other| *other < at).find(|other| hides(&rules[*other], rule));
            self.shadowed[number as usize] = first.map(|other| numbers[other]);
        }
        let hidden = |number: &u32| {
            let by = self.shadowed[*number as usize]?;
            index.place(by).map(|place| place as u32)
        };
        let shadowed = numbers.iter().map(hidden).collect();
        self.numbers = numbers;
        self.rules = rules.to_vec();
        (shadowed, self.index.clone())
    }
}
